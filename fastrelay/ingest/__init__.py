"""The door in: SMTP listeners, large contents, header edits."""
