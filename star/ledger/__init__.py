"""What was asked, what happened, who holds it."""
