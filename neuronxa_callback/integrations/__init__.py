"""What other trainers need: Axolotl's plugin, ways in for LLaMA-Factory and TRL's command line, Lightning's callback."""
