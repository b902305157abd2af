"""A way into TRL's command line: `python -m neuronxa_callback.integrations.trl sft --config CONFIG.yaml`."""
