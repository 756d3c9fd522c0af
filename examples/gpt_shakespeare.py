"""A small GPT on the bytes of three plays, as a script around `polchain.record`.

    POLCHAIN_DATA=examples/data python examples/gpt_shakespeare.py --steps 500

The run lies in runs/gpt-shakespeare. Started again, it goes on where it stopped.
"""

import argparse
import gzip
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

import polchain

CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS, DROPOUT = 64, 256, 128, 4, 4, 0.1


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of 65 bytes, one each 32 bytes: the first 64, and the 64 that follow them by one."""

    def __init__(self, text: bytes) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def __len__(self) -> int:
        return (len(self.text) - CONTEXT - 1) // 32 + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.text[32 * index : 32 * index + CONTEXT + 1]
        return window[:-1], window[1:]


def read(held_out: bool) -> Windows:
    """The last twentieth of the text is held out."""
    text = gzip.decompress((polchain.data_dir() / "shakespeare.txt.gz").read_bytes())
    cut = len(text) * 19 // 20
    return Windows(text[cut:] if held_out else text[:cut])


def shakespeare() -> Windows:
    return read(held_out=False)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(DROPOUT)
        )

    def attention(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.out(y.transpose(1, 2).reshape(batch, length, WIDTH)), DROPOUT, self.training)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight  # tied
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.dropout(self.tokens(x.long()) + self.positions(places)))))


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.long().flatten())


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """Weight decay for matrices, none for biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Linear warm-up over a twentieth of the run, then a cosine down to a tenth."""
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

    return LambdaLR(optimizer, factor)


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    model.eval()
    windows = read(held_out=True)
    x, y = (torch.stack(part) for part in zip(*(windows[i] for i in range(len(windows))), strict=True))
    return float(cross_entropy(model, x, y))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small GPT on Shakespeare under polchain.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=10, help="steps from one checkpoint to the next")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    args = parser.parse_args()

    with polchain.record(
        "runs/gpt-shakespeare", data=shakespeare, batch_size=args.batch_size, steps=args.steps, every=args.every
    ) as run:
        model = GPT()
        opt = adamw(model)
        sched = warmup_cosine(opt, args.steps)
        run.attach(model=model, optimizer=opt, scheduler=sched)
        for step, (x, y) in run.batches(workers=args.workers):
            loss = cross_entropy(model, x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            sched.step()
            opt.zero_grad(set_to_none=True)
            run.log(loss=loss)

    # After the loop: a replay ends with its segment, so it never comes here and needs no held-out text.
    print(f"held-out loss: {held_out_loss(model):.3f} nats per byte")


if __name__ == "__main__":
    main()
