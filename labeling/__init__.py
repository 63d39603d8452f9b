"""People: who may do what, which comparison they get, what they said of it."""
