"""The edge: HTTP and JSON outside, gRPC inside, the page, and no state of its own."""
