"""The shapes in which the world keeps prompts and preferences, one noun per file.

Each file turns one row of a file into items; knows no database.
"""
