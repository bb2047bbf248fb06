"""A teacher's word on tokens: its forms, how it is packed, and read."""
