"""Proximal Policy Optimisation of a LoRA adapter by a reward model, over one shared base."""
