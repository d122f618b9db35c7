"""Field numbers of the messages that clients send, as data.

Source: the public generated.proto files of k8s.io/api and k8s.io/apimachinery; a number never changes once given. Each line
is a definition and its fields; `name*` marks a field that keeps a zero value (the others drop it, because the encoding
writes even unset ones), and `+Type` a message whose fields belong to the enclosing object in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

_META = """
ObjectMeta: name=1 generateName=2 namespace=3 selfLink=4 uid=5 resourceVersion=6 generation=7 creationTimestamp=8
  deletionTimestamp=9 deletionGracePeriodSeconds*=10 labels=11 annotations=12 ownerReferences=13 finalizers=14
  managedFields=17
OwnerReference: apiVersion=5 kind=1 name=3 uid=4 controller*=6 blockOwnerDeletion*=7
ManagedFieldsEntry: manager=1 operation=2 apiVersion=3 time=4 fieldsType=6 fieldsV1=7 subresource=8
LabelSelector: matchLabels=1 matchExpressions=2
LabelSelectorRequirement: key=1 operator=2 values=3
DeleteOptions: gracePeriodSeconds*=1 preconditions=2 orphanDependents*=3 propagationPolicy=4 dryRun=5
Preconditions: uid=1 resourceVersion=2
Condition: type=1 status=2 observedGeneration=3 lastTransitionTime=4 reason=5 message=6
"""

_CORE = """
Pod: metadata=1 spec=2 status=3
PodTemplateSpec: metadata=1 spec=2
PodSpec: volumes=1 initContainers=20 containers=2 restartPolicy=3 terminationGracePeriodSeconds*=4
  activeDeadlineSeconds*=5 dnsPolicy=6 nodeSelector=7 serviceAccountName=8 serviceAccount=9
  automountServiceAccountToken*=21 nodeName=10 hostNetwork=11 hostPID=12 hostIPC=13 shareProcessNamespace*=27
  securityContext=14 imagePullSecrets=15 hostname=16 subdomain=17 affinity=18 schedulerName=19 tolerations=22
  hostAliases=23 priorityClassName=24 priority*=25 dnsConfig=26 readinessGates=28 runtimeClassName*=29
  enableServiceLinks*=30 preemptionPolicy=31 overhead=32 topologySpreadConstraints=33 setHostnameAsFQDN*=35 os=36
  hostUsers*=37 schedulingGates=38
Volume: name=1 +VolumeSource=2
VolumeSource: hostPath=1 emptyDir=2 secret=6 persistentVolumeClaim=10 downwardAPI=16 configMap=19 projected=26 csi=28
HostPathVolumeSource: path=1 type*=2
EmptyDirVolumeSource: medium=1 sizeLimit=2
SecretVolumeSource: secretName=1 items=2 defaultMode*=3 optional*=4
KeyToPath: key=1 path=2 mode*=3
PersistentVolumeClaimVolumeSource: claimName=1 readOnly=2
DownwardAPIVolumeSource: items=1 defaultMode*=2
DownwardAPIVolumeFile: path=1 fieldRef=2 resourceFieldRef=3 mode*=4
ObjectFieldSelector: apiVersion=1 fieldPath=2
ResourceFieldSelector: containerName=1 resource=2 divisor=3
ConfigMapVolumeSource: +LocalObjectReference=1 items=2 defaultMode*=3 optional*=4
LocalObjectReference: name=1
ProjectedVolumeSource: sources=1 defaultMode*=2
VolumeProjection: secret=1 downwardAPI=2 configMap=3 serviceAccountToken=4
SecretProjection: +LocalObjectReference=1 items=2 optional*=4
DownwardAPIProjection: items=1
ConfigMapProjection: +LocalObjectReference=1 items=2 optional*=4
ServiceAccountTokenProjection: audience=1 expirationSeconds*=2 path=3
CSIVolumeSource: driver=1 readOnly*=2 fsType*=3 volumeAttributes=4 nodePublishSecretRef=5
Container: name=1 image=2 command=3 args=4 workingDir=5 ports=6 envFrom=19 env=7 resources=8 volumeMounts=9
  volumeDevices=21 livenessProbe=10 readinessProbe=11 startupProbe=22 lifecycle=12 terminationMessagePath=13
  terminationMessagePolicy=20 imagePullPolicy=14 securityContext=15 stdin=16 stdinOnce=17 tty=18 resizePolicy=23
  restartPolicy*=24
ContainerPort: name=1 hostPort=2 containerPort=3 protocol=4 hostIP=5
EnvFromSource: prefix=1 configMapRef=2 secretRef=3
ConfigMapEnvSource: +LocalObjectReference=1 optional*=2
SecretEnvSource: +LocalObjectReference=1 optional*=2
EnvVar: name=1 value=2 valueFrom=3
EnvVarSource: fieldRef=1 resourceFieldRef=2 configMapKeyRef=3 secretKeyRef=4
ConfigMapKeySelector: +LocalObjectReference=1 key=2 optional*=3
SecretKeySelector: +LocalObjectReference=1 key=2 optional*=3
ResourceRequirements: limits=1 requests=2
VolumeMount: name=1 readOnly=2 mountPath=3 subPath=4 mountPropagation*=5 subPathExpr=6 recursiveReadOnly*=7
VolumeDevice: name=1 devicePath=2
Probe: +Handler=1 initialDelaySeconds=2 timeoutSeconds=3 periodSeconds=4 successThreshold=5 failureThreshold=6
  terminationGracePeriodSeconds*=7
Handler: exec=1 httpGet=2 tcpSocket=3 grpc=4
LifecycleHandler: exec=1 httpGet=2 tcpSocket=3 sleep=4
SleepAction: seconds=1
GRPCAction: port=1 service*=2
ExecAction: command=1
HTTPGetAction: path=1 port=2 host=3 scheme=4 httpHeaders=5
HTTPHeader: name=1 value=2
TCPSocketAction: port=1 host=2
Lifecycle: postStart=1 preStop=2
SecurityContext: capabilities=1 privileged*=2 seLinuxOptions=3 runAsUser*=4 runAsGroup*=8 runAsNonRoot*=5
  readOnlyRootFilesystem*=6 allowPrivilegeEscalation*=7 procMount*=9 seccompProfile=11
Capabilities: add=1 drop=2
SELinuxOptions: user=1 role=2 type=3 level=4
SeccompProfile: type=1 localhostProfile*=2
PodSecurityContext: seLinuxOptions=1 runAsUser*=2 runAsGroup*=6 runAsNonRoot*=3 supplementalGroups=4 fsGroup*=5
  sysctls=7 fsGroupChangePolicy*=9 seccompProfile=10
Sysctl: name=1 value=2
Affinity: nodeAffinity=1 podAffinity=2 podAntiAffinity=3
NodeAffinity: requiredDuringSchedulingIgnoredDuringExecution=1 preferredDuringSchedulingIgnoredDuringExecution=2
NodeSelector: nodeSelectorTerms=1
NodeSelectorTerm: matchExpressions=1 matchFields=2
NodeSelectorRequirement: key=1 operator=2 values=3
PreferredSchedulingTerm: weight=1 preference=2
PodAffinity: requiredDuringSchedulingIgnoredDuringExecution=1 preferredDuringSchedulingIgnoredDuringExecution=2
PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution=1 preferredDuringSchedulingIgnoredDuringExecution=2
PodAffinityTerm: labelSelector=1 namespaces=2 topologyKey=3 namespaceSelector=4
WeightedPodAffinityTerm: weight=1 podAffinityTerm=2
TopologySpreadConstraint: maxSkew=1 topologyKey=2 whenUnsatisfiable=3 labelSelector=4 minDomains*=5
  nodeAffinityPolicy*=6 nodeTaintsPolicy*=7 matchLabelKeys=8
Toleration: key=1 operator=2 value=3 effect=4 tolerationSeconds*=5
HostAlias: ip=1 hostnames=2
PodDNSConfig: nameservers=1 searches=2 options=3
PodDNSConfigOption: name=1 value*=2
PodReadinessGate: conditionType=1
Service: metadata=1 spec=2 status=3
ServiceSpec: ports=1 selector=2 clusterIP=3 clusterIPs=18 type=4 externalIPs=5 sessionAffinity=7 loadBalancerIP=8
  loadBalancerSourceRanges=9 externalName=10 externalTrafficPolicy=11 healthCheckNodePort=12
  publishNotReadyAddresses=13 sessionAffinityConfig=14 ipFamilyPolicy*=17 ipFamilies=19
  allocateLoadBalancerNodePorts*=20 loadBalancerClass*=21 internalTrafficPolicy*=22 trafficDistribution*=23
ServicePort: name=1 protocol=2 port=3 targetPort=4 nodePort=5 appProtocol*=6
SessionAffinityConfig: clientIP=1
ClientIPConfig: timeoutSeconds*=1
ServiceStatus: loadBalancer=1 conditions=2
LoadBalancerStatus: ingress=1
LoadBalancerIngress: ip=1 hostname=2
Namespace: metadata=1 spec=2 status=3
NamespaceSpec: finalizers=1
NamespaceStatus: phase=1
ConfigMap: metadata=1 data=2 binaryData=3 immutable*=4
Secret: metadata=1 data=2 type=3 stringData=4 immutable*=5
ServiceAccount: metadata=1 secrets=2 imagePullSecrets=3 automountServiceAccountToken*=4
ObjectReference: kind=1 namespace=2 name=3 uid=4 apiVersion=5 resourceVersion=6 fieldPath=7
Event: metadata=1 involvedObject=2 reason=3 message=4 source=5 firstTimestamp=6 lastTimestamp=7 count=8 type=9
  eventTime=10 series=11 action=12 related=13 reportingComponent=14 reportingInstance=15
EventSource: component=1 host=2
EventSeries: count=1 lastObservedTime=2
Binding: metadata=1 target=2
Node: metadata=1 spec=2 status=3
NodeSpec: podCIDR=1 podCIDRs=7 providerID=3 unschedulable=4 taints=5
Taint: key=1 value=2 effect=3 timeAdded=4
Endpoints: metadata=1 subsets=2
EndpointSubset: addresses=1 notReadyAddresses=2 ports=3
EndpointAddress: ip=1 hostname=3 nodeName*=4 targetRef=2
EndpointPort: name=1 port=2 protocol=3 appProtocol*=4
PodStatus: phase=1 conditions=2 message=3 reason=4 hostIP=5 podIP=6 startTime=7 containerStatuses=8 qosClass=9
  initContainerStatuses=10 nominatedNodeName=11 podIPs=12
PodIP: ip=1
PodCondition: type=1 status=2 lastProbeTime=3 lastTransitionTime=4 reason=5 message=6
ContainerStatus: name=1 state=2 lastState=3 ready=4 restartCount=5 image=6 imageID=7 containerID=8 started*=9
ContainerState: waiting=1 running=2 terminated=3
ContainerStateWaiting: reason=1 message=2
ContainerStateRunning: startedAt=1
ContainerStateTerminated: exitCode=1 signal=2 reason=3 message=4 startedAt=5 finishedAt=6 containerID=7
NodeStatus: capacity=1 allocatable=2 phase=3 conditions=4 addresses=5 daemonEndpoints=6 nodeInfo=7
NodeCondition: type=1 status=2 lastHeartbeatTime=3 lastTransitionTime=4 reason=5 message=6
NodeAddress: type=1 address=2
NodeDaemonEndpoints: kubeletEndpoint=1
DaemonEndpoint: Port=1
NodeSystemInfo: machineID=1 systemUUID=2 bootID=3 kernelVersion=4 osImage=5 containerRuntimeVersion=6 kubeletVersion=7
  kubeProxyVersion=8 operatingSystem=9 architecture=10
"""

_APPS = """
Deployment: metadata=1 spec=2 status=3
DeploymentSpec: replicas*=1 selector=2 template=3 strategy=4 minReadySeconds=5 revisionHistoryLimit*=6 paused=7
  progressDeadlineSeconds*=9
DeploymentStrategy: type=1 rollingUpdate=2
RollingUpdateDeployment: maxUnavailable=1 maxSurge=2
ReplicaSet: metadata=1 spec=2 status=3
ReplicaSetSpec: replicas*=1 selector=2 template=3 minReadySeconds=4
DaemonSet: metadata=1 spec=2 status=3
DaemonSetSpec: selector=1 template=2 updateStrategy=3 minReadySeconds=4 revisionHistoryLimit*=6
DaemonSetUpdateStrategy: type=1 rollingUpdate=2
RollingUpdateDaemonSet: maxUnavailable=1 maxSurge=2
DeploymentStatus: observedGeneration=1 replicas=2 updatedReplicas=3 availableReplicas=4 unavailableReplicas=5
  conditions=6 readyReplicas=7 collisionCount*=8
DeploymentCondition: type=1 status=2 reason=4 message=5 lastUpdateTime=6 lastTransitionTime=7
ReplicaSetStatus: replicas=1 fullyLabeledReplicas=2 observedGeneration=3 readyReplicas=4 availableReplicas=5
  conditions=6
ReplicaSetCondition: type=1 status=2 lastTransitionTime=3 reason=4 message=5
DaemonSetStatus: currentNumberScheduled=1 numberMisscheduled=2 desiredNumberScheduled=3 numberReady=4
  observedGeneration=5 updatedNumberScheduled=6 numberAvailable=7 numberUnavailable=8 collisionCount*=9 conditions=10
DaemonSetCondition: type=1 status=2 lastTransitionTime=3 reason=4 message=5
"""

_RBAC = """
Role: metadata=1 rules=2
ClusterRole: metadata=1 rules=2 aggregationRule=3
AggregationRule: clusterRoleSelectors=1
PolicyRule: verbs=1 apiGroups=2 resources=3 resourceNames=4 nonResourceURLs=5
RoleBinding: metadata=1 subjects=2 roleRef=3
ClusterRoleBinding: metadata=1 subjects=2 roleRef=3
Subject: kind=1 apiGroup=2 name=3 namespace=4
RoleRef: apiGroup=1 kind=2 name=3
"""

_AUTOSCALING_V1 = """
Scale: metadata=1 spec=2 status=3
ScaleSpec: replicas=1
ScaleStatus: replicas=1 selector=2
"""

_AUTOSCALING_V2 = """
HorizontalPodAutoscaler: metadata=1 spec=2 status=3
HorizontalPodAutoscalerSpec: scaleTargetRef=1 minReplicas*=2 maxReplicas=3 metrics=4 behavior=5
CrossVersionObjectReference: kind=1 name=2 apiVersion=3
MetricSpec: type=1 resource=4
ResourceMetricSource: name=1 target=2
MetricTarget: type=1 value=2 averageValue=3 averageUtilization*=4
HorizontalPodAutoscalerStatus: observedGeneration*=1 lastScaleTime=2 currentReplicas=3 desiredReplicas=4 conditions=6
HorizontalPodAutoscalerCondition: type=1 status=2 lastTransitionTime=3 reason=4 message=5
"""

_POLICY = """
PodDisruptionBudget: metadata=1 spec=2 status=3
PodDisruptionBudgetSpec: minAvailable=1 selector=2 maxUnavailable=3 unhealthyPodEvictionPolicy*=4
Eviction: metadata=1 deleteOptions=2
PodDisruptionBudgetStatus: observedGeneration=1 disruptedPods=2 disruptionsAllowed=3 currentHealthy=4 desiredHealthy=5
  expectedPods=6 conditions=7
"""

_AUTHENTICATION = """
TokenRequest: metadata=1 spec=2 status=3
TokenRequestSpec: audiences=1 expirationSeconds*=4 boundObjectRef=3
BoundObjectReference: kind=1 apiVersion=2 name=3 uid=4
TokenReview: metadata=1 spec=2 status=3
TokenReviewSpec: token=1 audiences=2
SelfSubjectReview: metadata=1 status=2
TokenRequestStatus: token=1 expirationTimestamp=2
TokenReviewStatus: authenticated=1 user=2 error=3 audiences=4
SelfSubjectReviewStatus: userInfo=1
UserInfo: username=1 uid=2 groups=3
"""

_AUTHORIZATION = """
SelfSubjectAccessReview: metadata=1 spec=2 status=3
SelfSubjectAccessReviewSpec: resourceAttributes=1 nonResourceAttributes=2
SubjectAccessReview: metadata=1 spec=2 status=3
LocalSubjectAccessReview: metadata=1 spec=2 status=3
SubjectAccessReviewSpec: resourceAttributes=1 nonResourceAttributes=2 user=3 groups=4 uid=6
ResourceAttributes: namespace=1 verb=2 group=3 version=4 resource=5 subresource=6 name=7
NonResourceAttributes: path=1 verb=2
SelfSubjectRulesReview: metadata=1 spec=2 status=3
SelfSubjectRulesReviewSpec: namespace=1
SubjectAccessReviewStatus: allowed=1 reason=2 evaluationError=3 denied=4
SubjectRulesReviewStatus: incomplete=3 evaluationError=4
"""

_COORDINATION = """
Lease: metadata=1 spec=2
LeaseSpec: holderIdentity*=1 leaseDurationSeconds*=2 acquireTime=3 renewTime=4 leaseTransitions*=5
"""

_DISCOVERY = """
EndpointSlice: metadata=1 endpoints=2 ports=3 addressType=4
Endpoint: addresses=1 conditions=2 hostname*=3 targetRef=4 nodeName*=6 zone*=7
EndpointConditions: ready*=1 serving*=2 terminating*=3
EndpointPort: name*=1 protocol*=2 port*=3 appProtocol*=4
"""

_BLOCKS = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.": _META,
    "io.k8s.api.core.v1.": _CORE,
    "io.k8s.api.apps.v1.": _APPS,
    "io.k8s.api.rbac.v1.": _RBAC,
    "io.k8s.api.autoscaling.v1.": _AUTOSCALING_V1,
    "io.k8s.api.autoscaling.v2.": _AUTOSCALING_V2,
    "io.k8s.api.policy.v1.": _POLICY,
    "io.k8s.api.authentication.v1.": _AUTHENTICATION,
    "io.k8s.api.authorization.v1.": _AUTHORIZATION,
    "io.k8s.api.coordination.v1.": _COORDINATION,
    "io.k8s.api.discovery.v1.": _DISCOVERY,
}


@dataclass(frozen=True, slots=True)
class Numbered:
    """One field: its JSON name, whether a zero is kept, and the message it is inlined from (empty: none)."""

    name: str
    keep_zero: bool = False
    inlined: str = ""


@cache
def messages() -> Mapping[str, Mapping[int, Numbered]]:
    """Definition name -> field number -> field."""
    found: dict[str, dict[int, Numbered]] = {}
    for prefix, block in _BLOCKS.items():
        for line in block.strip().replace("\n  ", " ").splitlines():
            name, _, text = line.partition(": ")
            found[prefix + name] = dict(_field(prefix, item) for item in text.split())
    return found


def _field(prefix: str, item: str) -> tuple[int, Numbered]:
    name, _, number = item.partition("=")
    if name.startswith("+"):
        return int(number), Numbered("", inlined=prefix + name[1:])
    return int(number), Numbered(name.rstrip("*"), name.endswith("*"))
