"""The architectures that ship, one short file each, by the name that `sae.architecture` in params.yaml takes."""

SHIPPED = {
    "topk": "sae.architectures.topk:TopKSAE",
    "vanilla": "sae.architectures.vanilla:VanillaSAE",
}
