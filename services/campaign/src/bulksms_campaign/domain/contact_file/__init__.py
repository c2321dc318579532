"""Contact files: CSV as people and spreadsheets really write it, read as a stream in bounded memory."""
