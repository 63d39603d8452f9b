"""A real server process and a real Chromium."""
