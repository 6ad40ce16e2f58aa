"""One update of wav2vec and vq-wav2vec, against a straightforward reading of the published networks in plain PyTorch.

    python benchmarks/wav2vec_step.py [--quantizer none|gumbel|kmeans] [--precision fp32|bf16] [--rounds 5] [--record]

Both sides: the published convolutions (7 and 12 layers of 512), 12 steps, 10 negatives, forward, backward, Adam.
The peer is written as the papers read: `nn.Conv1d`, `nn.GroupNorm`, one gathered tensor of negatives, a transposed
convolution for the predictions of all steps, a loss per step. Ours is `Trainer.train_step`, which also clips the
gradient and sums up what is logged.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from pretraining_step import RATE, RESULTS
from side_by_side import Step, plain_step, step_parser, take_turns, tell

ENCODER = [(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2), (512, 1, 1), (512, 1, 1)]
AGGREGATOR = [(512, kernel, 1) for kernel in range(2, 14)]
STEPS, NEGATIVES, OFFSET = 12, 10, 3
SCALE = 0.5**0.5


def ours(quantizer: str, precision: str, clips: int, seconds: float) -> Step:
    """Return a step of this library's trainer."""
    from trained_step import trainer_step

    quantized = {
        "none": {},
        "gumbel": {"vq_type": "gumbel", "vq_vars": 320, "vq_groups": 2, "vq_depth": 2, "combine_groups": True},
        "kmeans": {"vq_type": "kmeans", "vq_vars": 320, "vq_groups": 2, "combine_groups": True},
    }[quantizer]
    weights = {"none": None, "gumbel": (1.5,), "kmeans": (1.0,)}[quantizer]
    return trainer_step(
        arch="wav2vec",
        model={
            "conv_feature_layers": str(ENCODER), "conv_aggregator_layers": str(AGGREGATOR), "offset": "auto",
            "log_compression": True, "skip_connections_agg": True, "residual_scale": 0.5, "prediction_steps": STEPS,
            "num_negatives": NEGATIVES, **quantized,
        },
        criterion="wav2vec",
        criterion_options={"infonce": quantizer != "none", "loss_weights": weights},
        precision=precision,
        clips=clips,
        samples=int(seconds * RATE),
    )  # fmt: skip


def peer(quantizer: str, precision: str, clips: int, seconds: float) -> Step:
    """Return a step of the plain network."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.aggregator = nn.ModuleList(), nn.ModuleList()
            width = 1
            for channels, kernel, stride in ENCODER:
                conv = nn.Conv1d(width, channels, kernel, stride, bias=False)
                self.encoder.append(nn.Sequential(conv, nn.GroupNorm(1, channels), nn.ReLU()))
                width = channels
            for channels, kernel, _ in AGGREGATOR:
                pad = nn.ReplicationPad1d((kernel - 1, 0))
                self.aggregator.append(
                    nn.Sequential(pad, nn.Conv1d(width, channels, kernel), nn.GroupNorm(1, channels), nn.ReLU())
                )
            self.project = nn.ConvTranspose2d(width, width, (1, STEPS))
            self.logits = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 2 * 320))
            self.codebook = nn.Parameter(torch.rand(320, width // 2))
            self.groups = nn.Sequential(nn.Conv1d(width, width, 1, groups=2, bias=False), nn.GroupNorm(2, width))

        def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
            clips, channels, frames = z.shape
            if quantizer == "gumbel":
                logits = self.logits(z.transpose(1, 2)).view(clips * frames * 2, 320)
                chosen = F.gumbel_softmax(logits.float(), tau=2.0, hard=True)
                q = (chosen.view(-1, 2, 320) @ self.codebook).view(clips, frames, channels).transpose(1, 2)
                mean = logits.view(-1, 2, 320).softmax(-1).mean(0)
                return q, -(mean * (mean + 1e-7).log()).sum(-1).exp().sum()
            x = self.groups(z).view(clips, 2, channels // 2, frames).permute(0, 3, 1, 2)
            distances = (x.unsqueeze(3) - self.codebook).norm(dim=-1)
            q = self.codebook[distances.argmin(dim=-1)]
            loss = F.mse_loss(x.detach(), q) + 0.25 * F.mse_loss(x, q.detach())
            straight = x + (q - x).detach()
            return straight.reshape(clips, frames, channels).transpose(1, 2), loss

        def forward(self, source: Tensor) -> Tensor:
            z = source.unsqueeze(1)
            for block in self.encoder:
                z = block(z)
            z = (z.abs() + 1).log()
            extra = z.new_zeros(())
            if quantizer != "none":
                z, extra = self.quantize(z)
            c = z
            for block in self.aggregator:
                c = (c + block(c)) * SCALE
            clips, channels, frames = z.shape
            predictions = self.project(c.unsqueeze(-1))  # (B, C, T, steps)
            flat = z.transpose(0, 1).reshape(channels, clips * frames)
            draws = torch.randint(0, frames - 1, (clips, frames * NEGATIVES))
            own = torch.arange(frames).repeat_interleave(NEGATIVES)
            draws = draws + (draws >= own) + torch.arange(clips)[:, None] * frames
            negatives = flat[:, draws.view(-1)].view(channels, clips, NEGATIVES, frames).permute(2, 1, 0, 3)
            targets = torch.cat([z.unsqueeze(0), negatives])
            loss = extra
            for step in range(STEPS):
                shift = OFFSET + step
                x = torch.einsum("bct,nbct->tbn", predictions[:, :, :-shift, step], targets[..., shift:])
                x = x.reshape(-1, NEGATIVES + 1).float()
                if quantizer == "none":
                    wanted = torch.zeros_like(x)
                    wanted[:, 0] = 1
                    loss = loss + F.binary_cross_entropy_with_logits(x, wanted, reduction="sum")
                else:
                    loss = loss + F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), reduction="sum")
            return loss

    torch.manual_seed(1)
    network = Plain().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)
    source = torch.randn(clips, int(seconds * RATE))

    return plain_step(lambda: network(source), optimizer, precision)


def main() -> None:
    """Measure and print."""
    parser = step_parser(__doc__, "fp32", 4, 9.375, RESULTS)
    parser.add_argument("--quantizer", choices=("none", "gumbel", "kmeans"), default="none")
    arguments = parser.parse_args()
    given = (arguments.quantizer, arguments.precision, arguments.clips, arguments.seconds)
    mine, theirs = take_turns([("w2v", ours, given), ("plain PyTorch", peer, given)], arguments.rounds)
    audio = arguments.clips * arguments.seconds
    name = {"none": "wav2vec", "gumbel": "vq-wav2vec Gumbel", "kmeans": "vq-wav2vec k-means"}[arguments.quantizer]
    title = f"{name} {arguments.precision}, {arguments.clips} x {arguments.seconds:g} s"
    tell(title, mine, theirs, audio, RESULTS if arguments.record else None)


if __name__ == "__main__":
    main()
