"""What happens around a training step: active methods, tables of the pass, metrics, the fused head."""
