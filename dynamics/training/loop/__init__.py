"""What happens beside a step: methods armed and asked, what the pass saw, metrics, the fused head."""
