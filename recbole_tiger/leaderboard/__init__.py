"""Many runs under one protocol, and the tables made of them."""
