"""Kubernetes: the manifest, the pods' command, and kubectl against a stand-in of the API server."""
