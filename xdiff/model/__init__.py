"""X-Diffusion: a network that denoises cross-sections, and a sampler that keeps one 3D state consistent across all axes."""
