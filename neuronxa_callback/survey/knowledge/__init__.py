"""What a model knows in many languages: candidate answers ranked by likelihood (Qi, Fernandez and Bisazza 2023)."""
