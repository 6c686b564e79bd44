#!/bin/bash
# As the entrypoint of apache/kafka: KAFKA_* are the broker's properties, CLUSTER_ID formats an empty folder.
set -euo pipefail

properties=/tmp/server.properties
: >"$properties"
while IFS='=' read -r name value; do
  case $name in
    KAFKA_HEAP_OPTS) ;;
    KAFKA_*)
      name=${name#KAFKA_}
      name=${name//_/.}
      echo "${name,,}=$value" >>"$properties"
      ;;
  esac
done < <(env)
read -ra heap <<<"${KAFKA_HEAP_OPTS:--Xmx256m}"
java=(/opt/java/bin/java "${heap[@]}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
if [[ ! -e $KAFKA_LOG_DIRS/meta.properties ]]; then
  "${java[@]}" kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c "$properties"
fi
exec "${java[@]}" kafka.Kafka "$properties"
