"""The checks of `himl doctor --live`: himl's assumptions about Azure ML, checked in a real workspace."""
