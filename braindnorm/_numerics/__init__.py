"""Arrays only: axes, moments, collectives, the fused rule, the memory over time. No unit and no Module."""
