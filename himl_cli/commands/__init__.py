"""One file a noun: options, one service call, rendering."""
