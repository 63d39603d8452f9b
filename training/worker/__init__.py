"""The trainer subprocess: `python -m training.worker RUN_DIR`. The application never imports it.

It reads a run directory and writes into it, and opens neither the store nor the network.
"""
