"""Files of other programs: what comes in is checked as if a stranger had made it."""
