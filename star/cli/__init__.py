"""star-exp."""
