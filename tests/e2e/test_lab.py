"""`tulle lab --auto` walks through the whole lesson and leaves the mesh as it found it."""

from __future__ import annotations

from tests.e2e.mesh import Mesh, tulle


def test_every_step_of_the_guided_lesson(profile_mesh: Mesh) -> None:
    walked = tulle("lab", "--auto")
    assert walked.code == 0, walked.output
    assert "Every step came out as the lesson says." in walked.output
    assert "hello" not in profile_mesh.ok("kubectl get namespaces -o name")
