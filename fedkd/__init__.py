"""fedkd: federated, privacy-preserving knowledge distillation; simulation and deployment."""

__version__ = "0.1.0"
