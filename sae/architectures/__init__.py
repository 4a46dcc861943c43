"""The architectures that ship, one short file each, by the name that `sae.architecture` in params.yaml takes."""

SHIPPED = {
    "topk": "sae.architectures.topk:TopKSAE",
    "batchtopk": "sae.architectures.batchtopk:BatchTopKSAE",
    "matryoshka": "sae.architectures.matryoshka:MatryoshkaSAE",
    "jumprelu": "sae.architectures.jumprelu:JumpReLUSAE",
    "gated": "sae.architectures.gated:GatedSAE",
    "vanilla": "sae.architectures.vanilla:VanillaSAE",
    "anthropic": "sae.architectures.anthropic:AnthropicSAE",
    "p_anneal": "sae.architectures.p_anneal:PAnnealSAE",
    "prolu": "sae.architectures.prolu:ProLUSAE",
    "transcoder": "sae.architectures.transcoder:Transcoder",
    "skip_transcoder": "sae.architectures.transcoder:SkipTranscoder",
    "crosscoder": "sae.architectures.crosscoder:Crosscoder",
}
