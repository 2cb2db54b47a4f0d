from imaging.phantom import PhantomConfig
from imaging.sources.files import source_digest

PHANTOM = PhantomConfig()


def test_what_lies_behind_a_link_to_a_folder_counts(tmp_path):
    behind, root = tmp_path / "disk" / "P001", tmp_path / "root"
    behind.mkdir(parents=True)
    root.mkdir()
    (behind / "image.nii").write_bytes(b"one")
    (root / "P001").symlink_to(behind)
    before = source_digest(root, PHANTOM)
    (behind / "image.nii").write_bytes(b"two")
    assert source_digest(root, PHANTOM) != before


def test_a_linked_folder_counts_as_the_folder_itself(tmp_path):
    for root in (tmp_path / "plain", tmp_path / "linked"):
        root.mkdir()
    (tmp_path / "plain" / "P001").mkdir()
    (tmp_path / "plain" / "P001" / "image.nii").write_bytes(b"one")
    (tmp_path / "linked" / "P001").symlink_to(tmp_path / "plain" / "P001")
    assert source_digest(tmp_path / "linked", PHANTOM) == source_digest(tmp_path / "plain", PHANTOM)


def test_a_link_that_leads_back_up_ends(tmp_path):
    (tmp_path / "P001").mkdir()
    (tmp_path / "P001" / "image.nii").write_bytes(b"one")
    before = source_digest(tmp_path, PHANTOM)
    (tmp_path / "P001" / "up").symlink_to(tmp_path)
    assert source_digest(tmp_path, PHANTOM) == before
