"""What `ferrule serve` gives to uvicorn: its protocols, and what live connections need beyond.

`unmet` says whether uvicorn and websockets still are what they stand on.
"""
