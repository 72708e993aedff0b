"""fedkd: federated, privacy-preserving knowledge distillation; simulation and deployment."""
