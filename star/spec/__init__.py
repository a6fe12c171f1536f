"""What was asked: frozen pydantic sections, the experiment around them, and the keys that name each piece of work."""
