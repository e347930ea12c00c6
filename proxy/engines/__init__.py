"""What differs between engines, behind one protocol."""
