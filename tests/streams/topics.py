"""All records of a topic, decoded by the schema that the registry has for each of them: what the cluster says, not the database."""

import collections
import io
import json
import struct
import urllib.request

import confluent_kafka
import fastavro

Record = collections.namedtuple("Record", "partition offset key value")


class Topics:
    def __init__(self, servers, registry):
        self.servers, self.registry, self.schemas = servers, registry, {}

    def ends(self, topic):
        """The end of each partition."""
        consumer = self.consumer()
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ends = {number: consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, number), timeout=30)[1] for number in partitions}
        consumer.close()
        return ends

    def read(self, topic):
        """Up to the ends of now."""
        ends = {number: end for number, end in self.ends(topic).items() if end}
        consumer, found = self.consumer(), []
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in ends])
        while ends:
            message = consumer.poll(30)
            if message is None:
                raise SystemExit(f"FAILED {topic} cannot be read to its end: {ends}")
            if message.error():
                raise SystemExit(f"FAILED {topic}: {message.error()}")
            key = message.key().decode() if message.key() is not None else None
            found.append(Record(message.partition(), message.offset(), key, self.decoded(message.value())))
            if message.offset() + 1 >= ends[message.partition()]:
                consumer.incremental_unassign([confluent_kafka.TopicPartition(topic, message.partition())])
                del ends[message.partition()]
        consumer.close()
        return found

    def consumer(self):
        return confluent_kafka.Consumer({"bootstrap.servers": self.servers, "group.id": "week", "enable.auto.commit": False,
                                         "auto.offset.reset": "error", "isolation.level": "read_committed"})

    def decoded(self, value):
        if value is None:
            return None
        magic, number = struct.unpack(">bI", value[:5])
        if magic != 0:
            raise SystemExit(f"FAILED a record is not in the registry's framing: {value[:16]!r}")
        if number not in self.schemas:
            with urllib.request.urlopen(f"{self.registry}/schemas/ids/{number}", timeout=30) as answer:
                self.schemas[number] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), self.schemas[number])
