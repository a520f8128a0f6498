"""Small networks, one for each way in which channels hang together, with weights that are all different."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Draw weights, affine parameters and running statistics anew, so that no channel equals another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.3, 3, generator=generator)
            elif tensor.is_floating_point():
                scale = (2 * len(tensor) / tensor.numel()) ** 0.5 if tensor.ndim > 1 else 0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + (tensor.ndim == 1))
    return model.eval()


class Plain(nn.Module):
    """Three convolutions with BatchNorm, a pool and a linear layer."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 10, 3, stride=2, bias=False), nn.BatchNorm2d(10)
        self.conv3, self.bn3 = nn.Conv2d(10, 7, 1), nn.BatchNorm2d(7, affine=False)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


class Coarse(nn.Module):
    """Its outputs are what a large number leaves of them: in float32 they are rounded coarsely."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3))) + 1e4 - 1e4


class Residual(nn.Module):
    """One stream of 6 channels that two blocks add to, one of them with a projection beside it."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner, self.inner_bn = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.outer, self.outer_bn = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.square = nn.Conv2d(6, 6, 3, padding=1)
        self.skip = nn.Conv2d(6, 8, 1, stride=2)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer_bn(self.outer(F.relu(self.inner_bn(self.inner(x))))))
        x = F.relu(x + self.square(x))
        return self.head(F.relu(self.skip(x) + self.down(x)).mean((2, 3)))


class Concatenation(nn.Module):
    """Two branches side by side, as in DenseNet and U-Net."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.mix = nn.Conv2d(10, 5, 3, padding=1)
        self.head = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], dim=1)))
        return self.head(torch.cat([both, F.relu(self.mix(both))], dim=1).mean((2, 3)))


class Flattening(nn.Module):
    """A linear layer that reads a feature map: each channel owns 16 of its inputs."""

    image_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.hidden, self.head = nn.Linear(5 * 16, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))))


class Depthwise(nn.Module):
    """A depthwise convolution between two pointwise ones, and a channel attention around it, as in MobileNetV3."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.expand, self.expand_bn = nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.depthwise_bn = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.activation = nn.PReLU(12)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.expand_bn(self.expand(x)))
        x = F.relu(self.depthwise_bn(self.depthwise(x)))
        x = x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(F.relu(self.project(x)).mean((2, 3)))


class Decoder(nn.Module):
    """Transposed convolutions, as in a decoder; puts out an image."""

    image_shape = (3, 4, 4)

    def __init__(self):
        super().__init__()
        self.up1, self.bn1 = nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.up2, self.bn2 = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.up3 = nn.ConvTranspose2d(8, 5, 3, stride=2, output_padding=1, padding=1)
        self.image = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.up1(x)))
        x = F.relu(self.bn2(self.up2(x)))
        return self.image(F.relu(self.up3(x)))


class Perceptron(nn.Module):
    """Pre-norm blocks on vectors, with a learned scale on each branch."""

    image_shape = (6,)

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.scale * self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


class PaddedShortcut(nn.Module):
    """Shortcuts that pad with zero channels ("option A"): the streams must stay, what lies inside a block may move."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner1, self.outer1 = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.inner2, self.outer2 = nn.Conv2d(4, 7, 3, stride=2, padding=1), nn.Conv2d(7, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer1(F.relu(self.inner1(x))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = F.relu(shortcut + self.outer2(F.relu(self.inner2(x))))
        return self.head(x.mean((2, 3)))


class ConcatenatedShortcut(PaddedShortcut):
    """The same with the zeros set beside the channels instead of padded."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer1(F.relu(self.inner1(x))))
        zeros = x.new_zeros(len(x), 2, 4, 4)
        shortcut = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
        x = F.relu(shortcut + self.outer2(F.relu(self.inner2(x))))
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution, whose channels cannot leave their group, and a free one behind it."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.before, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, groups=2)
        self.after = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.after(F.relu(self.grouped(F.relu(self.before(x)))))).mean((2, 3)))


class Weighted(nn.Module):
    """Multiplies each channel by a number of its own that is no parameter: no graph of the parameters shows it."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.before(x))
        x = x * torch.arange(1.0, 7.0).view(1, 6, 1, 1)
        return self.head(F.relu(self.after(x)).mean((2, 3)))


class AddedToInput(nn.Module):
    """A convolution that is added to the image: its channels are those of the image."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.after(F.relu(x + self.conv(x)))).mean((2, 3)))


class Volume(nn.Module):
    """A convolution over volumes, then one over sequences."""

    image_shape = (2, 4, 4, 4)

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5)
        self.series, self.series_bn = nn.Conv1d(5, 7, 3, padding=1), nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x))).mean((3, 4))
        return self.head(F.relu(self.series_bn(self.series(x))).mean(2))


class GroupNormalised(nn.Module):
    """GroupNorms of pairs of channels, of all, of single ones, and of triples that cross the seam of two branches."""

    image_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.pairs, self.pairs_norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.whole, self.whole_norm = nn.Conv2d(8, 6, 3, padding=1), nn.GroupNorm(1, 6)
        self.single, self.single_norm = nn.Conv2d(6, 5, 3, padding=1), nn.GroupNorm(5, 5)
        self.left, self.right = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.triples_norm = nn.GroupNorm(3, 9, affine=False)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pairs_norm(self.pairs(x)))
        x = F.relu(self.whole_norm(self.whole(x)))
        x = F.relu(self.single_norm(self.single(x)))
        both = self.triples_norm(torch.cat([self.left(x), self.right(x)], dim=1))
        return self.head(F.relu(both).mean((2, 3)))


class Chunked(nn.Module):
    """A gated unit: half of the channels open the way for the other half."""

    image_shape = (6,)

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(6, 16), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=1)
        return self.head(F.relu(self.down(value * gate.sigmoid())))


FREE = [Plain, Residual, Concatenation, Flattening, Depthwise, Decoder, Perceptron, Volume, GroupNormalised]
PARTLY_FREE = [PaddedShortcut, ConcatenatedShortcut, Grouped, Weighted, AddedToInput, Chunked]


def make(network: type[nn.Module], seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and a batch of what it takes."""
    torch.manual_seed(seed)
    inputs = torch.randn(2, *network.image_shape, generator=torch.Generator().manual_seed(seed + 1))
    return randomise(network(), seed), inputs
