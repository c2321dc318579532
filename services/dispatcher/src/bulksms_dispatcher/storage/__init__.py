"""The only SQL: statements by the noun they are about, all on the database's own clock."""
