"""Small networks of transformers, with random weights: one of each of many model types, as folders that hf: opens.

    python scripts/small_transformers.py FOLDER [TYPE ...]

What makes a configuration small is the same for all (`SMALL`); `MORE` holds what a type needs besides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODEL_TYPES: dict[str, str] = {
    "ForMaskedLM": """albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie
        esm eurobert flaubert fnet funnel ibert longformer megatron-bert mobilebert modernbert mpnet mra nystromformer
        perceiver reformer rembert roberta roberta-prelayernorm roformer squeezebert xlm xlm-roberta xmod yoso""",
    "ForCausalLM": """apertus arcee  biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v3 diffllama ernie4_5
        exaone4 falcon  falcon_mamba gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss
        gptj granite helium jamba lfm2 llama mamba mamba2 minimax mistral mixtral mpt
        nemotron olmo olmo2 olmoe openai-gpt opt persimmon phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next
        recurrent_gemma rwkv seed_oss smollm3 stablelm starcoder2 xglm xlnet """,
    "ForSeq2SeqLM": """bart bigbird_pegasus blenderbot blenderbot-small fsmt led longt5 m2m_100 marian mbart mt5 mvp
        nllb-moe pegasus pegasus_x plbart prophetnet switch_transformers t5 umt5""",
    "ForImageClassification": """beit bit convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers
        efficientnet focalnet hgnet_v2 hiera ijepa levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
        poolformer pvt pvt_v2 regnet resnet siglip2 swiftformer swin swinv2 textnet vit vit_msn""",
    "ForSemanticSegmentation": "segformer upernet",
    "ForUniversalSegmentation": "mask2former maskformer oneformer",
    "ForObjectDetection": "conditional_detr dab-detr deformable_detr detr rt_detr table-transformer yolos",
    "ForDepthEstimation": "depth_anything dpt glpn zoedepth",
    "ForImageToImage": "swin2sr",
    "ForVideoClassification": "timesformer videomae vivit vjepa2",
    "ForCTC": """data2vec-audio hubert sew sew-d unispeech unispeech-sat wav2vec2 wav2vec2-bert wav2vec2-conformer
        wavlm""",
    "ForAudioClassification": "audio-spectrogram-transformer",
    "ForSpeechSeq2Seq": "moonshine speech_to_text whisper",
    "": """altclip dinov3_vit blip chinese_clip clip clipseg encodec flava git groupvit layoutlm
        layoutlmv3 lxmert markuplm owlvit owlv2 patchtsmixer patchtst siglip tapas time_series_transformer timesfm
        vilt visual_bert vit_mae xclip""",
}
"""Model types by their head: what stands behind AutoModel."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(["vocab_size", "text_vocab_size"], 99),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "encoder_hidden_dim"], 32),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_decoder_layers", "num_encoder_layers", "encoder_num_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads"], 4),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"], 64),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_source_positions"], 64),
    **dict.fromkeys(["head_dim", "d_kv"], 8),
    **{"num_key_value_heads": 2, "n_inner": 64, "embedding_size": 16, "image_size": 64, "patch_size": 8},
    **{"num_labels": 3, "projection_dim": 16, "max_target_positions": 64, "num_queries": 5},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1},
}
"""What makes a configuration small, by the name of the setting."""

_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
_RESNET = {"model_type": "resnet", "out_features": ["stage4"], "hidden_sizes": [8, 8, 16, 16], "embedding_size": 8}
_BACKBONE = _RESNET | {"depths": [1, 1, 1, 1], "layer_type": "basic"}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
_VIT |= {"out_features": ["stage1", "stage2"]}
_NECK = {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 16, 16]}
_NECK |= {"fusion_hidden_size": 16, "is_hybrid": False}
_EVERY_STAGE = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
_DETR = {"backbone_config": _BACKBONE, "use_timm_backbone": False, "backbone": None}
_SOUND = {"conv_dim": [16, 16], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_conv_pos_embeddings": 8}
_SOUND |= {"num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}

MORE: dict[str, dict[str, Any]] = {
    "resnet": _STAGES | {"embedding_size": 8, "layer_type": "basic"},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6, "input_size": 64, "patch_size": 8},
    "levit": {"patch_size": 16},
    "mobilevitv2": {"patch_size": 2},
    "nemotron": {"num_key_value_heads": 2},
    "mask2former": {"backbone_config": _BACKBONE | _EVERY_STAGE, "hidden_dim": 32, "mask_feature_size": 32}
    | {"feature_size": 32, "encoder_feedforward_dim": 64, "dim_feedforward": 64, "num_queries": 5, "encoder_layers": 1},
    "squeezebert": {"embedding_size": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4, "n_ctx": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "deepseek_v3": _LATENT | {"n_group": 1, "topk_group": 1, "head_dim": 8, "num_key_value_heads": 4},
    "esm": {"vocab_size": 33, "mask_token_id": 32},
    "longformer": {"attention_window": 8},
    "led": {"attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "swin2sr": _SWIN | {"image_size": 32, "upscale": 2, "patch_size": 1},
    "data2vec-audio": _SOUND,
    "hubert": _SOUND,
    "sew": _SOUND | {"conv_dim": [16, 16], "squeeze_factor": 2},
    "sew-d": _SOUND | {"squeeze_factor": 2, "feature_layer_norm_eps": 1e-5},
    "unispeech": _SOUND,
    "unispeech-sat": _SOUND,
    "wav2vec2": _SOUND,
    "wav2vec2-conformer": _SOUND | {"vocab_size": 32},
    "wav2vec2-bert": {"vocab_size": 32},
    "wavlm": _SOUND,
    "detr": _DETR,
    "conditional_detr": _DETR,
    "deformable_detr": _DETR | {"num_feature_levels": 1},
    "dab-detr": _DETR,
    "table-transformer": _DETR,
    "upernet": {"backbone_config": _BACKBONE | _EVERY_STAGE}
    | {"hidden_size": 16, "pool_scales": [1, 2], "use_auxiliary_head": False},
    "yolos": {"num_detection_tokens": 5, "image_size": [64, 64]},
    "bit": {"hidden_sizes": [32, 32], "depths": [1, 1], "embedding_size": 32, "num_groups": 4},
    "efficientnet": {"hidden_dim": 1280, "width_coefficient": 1.0, "depth_coefficient": 0.3},
    "dpt": _NECK,
    "depth_anything": {"neck_hidden_sizes": [16, 16], "fusion_hidden_size": 16, "head_hidden_size": 8}
    | {"reassemble_factors": [2, 1], "reassemble_hidden_size": 32, "patch_size": 8}
    | {"backbone_config": _VIT | {"model_type": "dinov2", "reshape_hidden_states": False, "apply_layernorm": True}},
    "rt_detr": {
        "backbone_config": _BACKBONE | {"model_type": "rt_detr_resnet", "out_features": ["stage2", "stage3", "stage4"]}
    }
    | {"encoder_in_channels": [8, 16, 16], "encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32]}
    | {"num_queries": 5, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "image_size": 64},
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "whisper": {"num_mel_bins": 16},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "qk_channels": 32,
        "v_channels": 32,
        "num_self_attends_per_block": 1,
    },
    "reformer": {"axial_pos_shape": [4, 4], "axial_pos_embds_dim": [16, 16], "attention_head_size": 8}
    | {"is_decoder": False, "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "attn_layers": ["local", "lsh"]},
    "videomae": {"num_frames": 4},
    "timesformer": {"num_frames": 4},
    "vjepa2": {"crop_size": 32, "frames_per_clip": 4, "patch_size": 8, "pred_hidden_size": 32}
    | {"pred_num_attention_heads": 4, "pred_num_hidden_layers": 2},
    "vivit": {"num_frames": 4, "tubelet_size": [2, 8, 8]},
    "time_series_transformer": {"prediction_length": 4},
}


REFUSED = ("encodec", "led", "longformer", "reformer", "vilt", "lxmert", "oneformer", "perceiver", "siglip2", "xmod")
REFUSED += ("timesfm", "time_series_transformer")
"""Model types that are refused in a sentence: the first five branch on values, the others take inputs (regions of a
picture, the text of a task, bytes, patches, a language) of which their configuration says nothing.
"""


def configuration(kind: str) -> Any:
    """A small configuration of a model type."""
    from transformers import CONFIG_MAPPING

    return _shrink(CONFIG_MAPPING[kind](), MORE.get(kind, {}))


def _shrink(config: Any, more: dict[str, Any]) -> Any:
    from transformers import PreTrainedConfig

    changes: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            changes[name] = _shrink(part, {}).to_dict()
        elif name in SMALL and (name.endswith("_id") or (isinstance(value, int) and not isinstance(value, bool))):
            changes[name] = SMALL[name]
    return type(config)(**changes | more)


def save(kind: str, folder: Path) -> str:
    """Write the small configuration of a model type with its head into `folder`; returns the name of its class."""
    import transformers

    head = next(head for head, kinds in MODEL_TYPES.items() if kind in kinds.split())
    config = configuration(kind)
    made = getattr(transformers, f"AutoModel{head}")._model_mapping[type(config)]
    architecture = (made[0] if isinstance(made, tuple) else made).__name__
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return architecture


def length(kind: str) -> int:
    """Of a sample: steps of sound, or tokens."""
    return (
        2000
        if kind
        in (
            *MODEL_TYPES["ForCTC"].split(),
            "encodec",
        )
        else 16
    )


def batch(signature: Any, size: int, padded: int = 5) -> dict[str, Any]:
    """Random inputs; all samples but the first end in `padded` places of padding."""
    import torch

    torch.manual_seed(size)
    values = signature.example(size)
    for entry in signature.inputs:
        shape = values[entry.name].shape
        if entry.kind == "tokens":
            values[entry.name] = torch.randint(3, 30, shape)
        elif entry.kind == "mask":
            values[entry.name][1:, -padded:] = 0
        elif entry.dtype.is_floating_point:
            values[entry.name] = torch.randn(shape)
    return values


def names() -> list[str]:
    """All model types."""
    return sorted(kind for kinds in MODEL_TYPES.values() for kind in kinds.split())


if __name__ == "__main__":
    for name in sys.argv[2:] or names():
        print(json.dumps({"type": name, "architecture": save(name, Path(sys.argv[1]) / name)}), flush=True)
