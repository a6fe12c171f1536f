"""Tables from tracked metrics, beside the published values. Nothing in them is typed in."""
