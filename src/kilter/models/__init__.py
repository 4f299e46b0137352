"""Models: loading, heads, adapters, the shared-prefix forward and the fused language-model head."""
