"""The tables: their schema, Delta, locks, and the index of ids."""
