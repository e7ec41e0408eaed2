"""Delta tables with their schema, lock and id index; files, folders and filesystems."""
