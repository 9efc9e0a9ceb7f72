"""Protobuf messages of other people's services, from the few fields of them that are read here.

A message is described where it is used, by field number, instead of in a generated file: unknown fields are
skipped by the format itself. protobuf is imported with the first message.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Messages"]


class Messages:
    """The messages of one package, built on first use.

    messages: name -> its fields: name -> (number, type); a type is one of protobuf's scalars ("string") or
    another message of the package, with "repeated " before it where it is a list.
    """

    def __init__(self, package: str, messages: Mapping[str, Mapping[str, tuple[int, str]]]) -> None:
        self._package = package
        self._messages = messages
        self._built: dict[str, type] = {}

    def of(self, name: str) -> type:
        """The class of a message."""
        if not self._built:
            self._built = self._build()
        return self._built[name]

    def _build(self) -> dict[str, type]:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        kinds = descriptor_pb2.FieldDescriptorProto
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{self._package}.proto", package=self._package, syntax="proto3"
        )
        for message, fields in self._messages.items():
            described = file.message_type.add(name=message)
            for name, (number, told) in fields.items():
                of = told.removeprefix("repeated ")
                nested = of in self._messages
                described.field.add(
                    name=name,
                    number=number,
                    label=kinds.LABEL_REPEATED if told != of else kinds.LABEL_OPTIONAL,
                    type=kinds.TYPE_MESSAGE if nested else kinds.Type.Value(f"TYPE_{of.upper()}"),
                    type_name=f".{self._package}.{of}" if nested else None,
                )
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{self._package}.{name}"))
            for name in self._messages
        }
