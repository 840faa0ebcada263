"""pomona as a contender."""
