"""What the toolkit does; knows no terminal and no Azure SDK."""
