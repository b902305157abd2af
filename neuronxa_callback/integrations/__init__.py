"""What other trainers need: Axolotl's plugin, ways into LLaMA-Factory and TRL's command line, Lightning's callback."""
