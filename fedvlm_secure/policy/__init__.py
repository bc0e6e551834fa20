"""What a consortium agreed on: the policy, the roster, and each hospital's own configuration."""
