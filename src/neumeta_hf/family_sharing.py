"""Saying where a family and its morphs come from, and pushing them: a part of `NeuMetaModel`."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neumeta_hf.axes import Size
from neumeta_hf.checkpoints import Fingerprint
from neumeta_hf.errors import HubError
from neumeta_hf.provenance import MorphOrigin, RunSource


class FamilySharing:
    """What uploads a family with its card, and lets its morphs be uploaded with theirs.

    Attributes:
        run_source: Where the files of its run lie, which pushes take along; None: nowhere.
    """

    run_source: RunSource | None = None
    config: Any
    target_family: Any
    space: Any
    width_groups: list[str]
    hypernetwork: Any
    static: Any
    num_generated_parameters: Any
    name_or_path: Any
    _full_num_parameters: Any

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        license: str | None = None,
        image_processor: Any = None,
        run: str | Path | None = None,
        overwrite_card: bool = False,
        with_code: bool = False,
        dry_run: bool = False,
    ) -> Any:
        """Upload the family as one commit: weights, config, image processor, facts of its run, and a model card.

        Args:
            repo_id: `organisation/name`, or a name in one's own space; made if it does not exist.
            commit_message: Its first line.
            commit_description: What follows.
            private: Whether a new repo is private; None: as the organisation's default says.
            token: Access token of the Hub; None: the stored one.
            revision: Branch to push to, made if it does not exist; None: main.
            create_pr: Open a pull request instead of committing.
            max_shard_size: Largest size of a weights file.
            tags: More tags for the card.
            license: Licence of the weights, a Hub identifier such as "apache-2.0". None: as the card that is there
                says, or "unknown".
            image_processor: Instead of the run's image processor or tokenizer.
            run: Folder of the run, whose image processor, recipe, training facts and sweep go along, from now on. None:
                the folder or the commit that the family was loaded from; one that was never loaded has the files that
                it was first pushed with.
            overwrite_card: Write the card anew. Otherwise a card that is there keeps all that somebody wrote in it, and
                its generated section is refreshed.
            with_code: Put this package's modeling code beside the weights, for
                `AutoModel.from_pretrained(..., trust_remote_code=True)` where the package is not installed.
            dry_run: Upload nothing, and ask the Hub nothing of `repo_id`, whose card may hold more.

        Returns:
            Address of the commit. Where nothing has changed there is no new one. In a dry run, a `PushPlan`: the card
            and the files that would go up.

        Raises:
            HubError: The Hub refuses or cannot be reached, after the retries that are safe; nothing was changed then.
                Code beside somebody's weights, without the package, refuses too.
            CardError: The card that is there cannot be read, or is somebody's own and has another licence.
            CheckpointError: A file of the run is damaged, or `run` is not a folder.
        """
        hub = _hub()
        if run is not None:
            self.run_source = RunSource.of_folder(run)
        facts = hub.FamilyFacts(
            config=self.config.to_dict(),
            family=self.target_family.name,
            task=self.target_family.task,
            width_groups={group: self.space.full[group] for group in self.width_groups},
            num_parameters={
                "hypernetwork": sum(parameter.numel() for parameter in self.hypernetwork.parameters()),
                "generated": self.num_generated_parameters,
                "static": sum(parameter.numel() for parameter in self.static.parameters()),
            },
        )
        family: Any = self
        commit = hub.push_family(
            family,
            facts,
            repo_id,
            run=self.run_source,
            max_shard_size=max_shard_size,
            license=license,
            tags=tags,
            image_processor=image_processor,
            with_code=with_code,
            commit_message=commit_message,
            commit_description=commit_description,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            overwrite_card=overwrite_card,
            dry_run=dry_run,
        )
        if isinstance(commit, hub.PushPlan):
            return commit
        self.name_or_path = commit.repo_url.repo_id  # what its morphs name from now on
        if self.run_source is None:
            self.run_source = RunSource(repo_id=self.name_or_path, revision=commit.oid)
        return commit

    def _name_origin(self, morph: Any, size: Size, facts: Mapping[str, Any]) -> None:
        """Say where a morph comes from, for the card that is written when it is shared; the network stays as it is.

        Args:
            morph: The network.
            size: Size of the morph.
            facts: How it was made, as `MorphOrigin` says it.
        """
        ratios = self.space.ratios(size)
        morph.morph_origin = MorphOrigin(
            source=self.name_or_path or "",
            run=self.run_source,
            family=self.target_family.name,
            task=self.target_family.task,
            widths={group: ratios[group] for group in self.width_groups if size[group]},
            depths={stack.name: (size[stack.key], stack.full) for stack in self.space.depths.values()},
            full_num_parameters=self._full_num_parameters,
            fingerprint=Fingerprint.of(morph.state_dict()),
            **facts,
        )
        morph.push_to_hub = functools.partial(_push_morph, morph, morph.morph_origin)


def _push_morph(morph: Any, origin: MorphOrigin, repo_id: str, **options: Any) -> Any:
    """Upload a morph; `neumeta_hf.hub.push_morph` says with which options."""
    return _hub().push_morph(morph, origin, repo_id, **options)


def _hub() -> Any:
    """What pushes: loaded when somebody does, and left out of the code that goes beside weights."""
    # transformers asks of code beside weights that all is installed that it imports, but for what it tries to.
    try:
        from neumeta_hf import hub
    except ImportError as error:
        raise HubError("this code came with somebody's weights and cannot push: pip install neumeta_hf.") from error
    return hub
