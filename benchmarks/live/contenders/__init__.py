"""The servers that live connections are measured on, each as its documentation would have it."""
