"""The same function fast on a CPU, and its gradients."""
