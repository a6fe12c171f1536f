"""What mutmut needs of the source, and what it should leave alone; as a script, mutmut with that in mind."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

NO_GRAD = m.Decorator(decorator=m.Call(func=m.Attribute(value=m.Name("torch"), attr=m.Name("no_grad")), args=[]))
WORDS = m.Raise() | m.Assert() | m.Call(func=m.Attribute(value=m.Name("log")))
"""What is said to a user; what it says is tested where users meet it."""


class _Bodies(cst.CSTTransformer):
    """`@torch.no_grad()` becomes a `with` in the function's body: mutmut leaves decorated functions alone."""

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        kept = [one for one in updated_node.decorators if not m.matches(one, NO_GRAD)]
        if len(kept) == len(updated_node.decorators):
            return updated_node
        body, head = list(updated_node.body.body), []
        if m.matches(body[0], m.SimpleStatementLine(body=[m.Expr(value=m.SimpleString())])):
            head.append(body.pop(0))
        inner = cst.With([cst.WithItem(cst.parse_expression("torch.no_grad()"))], cst.IndentedBlock(body))  # type: ignore[arg-type]
        return updated_node.with_changes(decorators=kept, body=updated_node.body.with_changes(body=[*head, inner]))


def without_decorators(source: str) -> str:
    """The same program, with every function open to mutation that can be."""
    return cst.parse_module(source).visit(_Bodies()).code


def install() -> None:
    """Have mutmut pass over what is only said, and change a string in one way, not in three."""
    from mutmut.mutation import file_mutation, mutators

    plain = file_mutation.MutationVisitor._skip_node_and_children

    def skip(visitor: file_mutation.MutationVisitor, node: cst.CSTNode) -> bool:
        return m.matches(node, WORDS) or plain(visitor, node)

    file_mutation.MutationVisitor._skip_node_and_children = skip  # type: ignore[method-assign]
    operators = file_mutation.mutation_operators
    place = next(i for i, (_, operator) in enumerate(operators) if operator is mutators.operator_string)
    operators[place] = (cst.BaseString, lambda node: list(mutators.operator_string(node))[:1])  # type: ignore[index]


if __name__ == "__main__":
    from mutmut.__main__ import cli

    install()
    cli()
