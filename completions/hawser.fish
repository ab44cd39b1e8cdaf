# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hawser_global_optspecs
    string join \n L/hawser-namespace= kubeconfig= context= as= as-group= verbose h/help V/version
end

function __fish_hawser_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hawser_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hawser_using_subcommand
    set -l cmd (__fish_hawser_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hawser -n "__fish_hawser_needs_command" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_needs_command" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_needs_command" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_needs_command" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_needs_command" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_needs_command" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_needs_command" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "check" -d 'Check that the mesh is healthy'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "completion" -d 'Print the completions of a shell'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "docs" -d 'Print the reference of all commands as Markdown, or write manual pages'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "edges" -d 'Show who talks to whom, and whether it is secured'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "identity" -d 'Show and verify the certificates of pods'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "image" -d 'Write a container image of this very binary'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "inject" -d 'Add the mesh to manifests, to be piped to `kubectl apply -f -`'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "install" -d 'Print the installation, to be piped to `kubectl apply -f -`'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "run" -d 'Run a role of the mesh; what pods start'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "trust" -d 'Whom the mesh believes, and how that is replaced'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "uninject" -d 'Take the mesh out of manifests'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "uninstall" -d 'Print what to delete, to be piped to `kubectl delete -f -`'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "version" -d 'Show the versions of the client, the control plane and the proxies'
complete -c hawser -n "__fish_hawser_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand check" -s n -l namespace -d 'Only check the proxies of this namespace, beside the control plane [default: all]' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -s o -l output -d 'How to print what was found' -r -f -a "json\t''
short\t'Only what is not well'
table\t''"
complete -c hawser -n "__fish_hawser_using_subcommand check" -l wait -d 'Wait for the mesh to become healthy, at most this long, such as 30s or 5m [without a value: 5m]' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand check" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand check" -l pre -d 'Check whether hawser can be installed, instead'
complete -c hawser -n "__fish_hawser_using_subcommand check" -l proxy -d 'All checks look at the proxies anyway'
complete -c hawser -n "__fish_hawser_using_subcommand check" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand check" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand completion" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand completion" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand completion" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand completion" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand completion" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand completion" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand completion" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand completion" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l man -d 'Write manual pages into this folder instead' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand docs" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand docs" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand docs" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand docs" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s n -l namespace -d 'The namespace at either end [default: that of the context]' -r
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s o -l output -d 'How to print the edges' -r -f -a "json\t''
table\t''
wide\t'With identities, handshakes and counts'"
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s A -l all-namespaces -d 'Edges of all namespaces'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l connections -d 'List each open connection by itself'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l live -d 'Leave out connections that have closed'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand edges" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s l -l selector -d 'Ask the pods with these labels' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s n -l namespace -d 'The namespace of the pods [default: that of the context]' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s o -l output -d 'How to print the certificates' -r -f -a "json\t''
pem\t'The chains as they were sent'
text\t''"
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand identity" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s A -l all-namespaces -d 'Ask the pods of all namespaces'
complete -c hawser -n "__fish_hawser_using_subcommand identity" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand identity" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand image" -s o -l output -d 'Where to write the archive, instead of standard output' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand image" -l platform -d 'The platform the image must be for; it is always that of this binary' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l tag -d 'The name of the image' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l entry-point -d 'What starts without a command: hawser, or a role under the name that a stock Linkerd starts it by' -r -f -a "hawser\t''
proxy\t'As the image of linkerd2-proxy'
proxy-init\t'As the image of proxy-init'"
complete -c hawser -n "__fish_hawser_using_subcommand image" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand image" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand image" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand image" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand image" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -s o -l output -d 'How to print the manifests' -r -f -a "json\t'One object a line'
yaml\t''"
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l trust-bundle -d 'The trust bundle for --manual, instead of asking the cluster' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-image -d 'The proxy\'s image, instead of hawser\'s own' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l image-pull-policy -d 'When to pull images: Always, IfNotPresent or Never' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-log-level -d 'What proxies log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-cpu-request -d 'CPU that a proxy is guaranteed' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-cpu-limit -d 'CPU that a proxy may use at most' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-memory-request -d 'Memory that a proxy is guaranteed' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-memory-limit -d 'Memory that a proxy may use at most' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-uid -d 'The user that proxies run as' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l proxy-gid -d 'The group that proxies run as' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l inbound-port -d 'Where proxies accept connections to their pods' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l outbound-port -d 'Where proxies accept connections of their apps' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l admin-port -d 'The port of the proxies\' admin servers' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l control-port -d 'The port of the proxies\' tap servers' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l skip-inbound-ports -d 'Inbound ports that bypass the proxy, such as 25,3000-3010' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l skip-outbound-ports -d 'Outbound ports that bypass the proxy' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l opaque-ports -d 'Ports whose connections are carried without being looked at' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l default-inbound-policy -d 'Who may call pods that no policy names: all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, audit or deny' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l require-identity-on-inbound-ports -d 'Ports on which clients must prove who they are' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l native-sidecar -d 'Whether the proxy is a native sidecar, which init containers can use and jobs do not wait for' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l wait-before-exit-seconds -d 'How long a proxy without a native sidecar outlives its app\'s end' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l shutdown-grace-period -d 'How long proxies may finish what they carry, such as 30s' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l access-log -d 'Log HTTP requests, as apache or json' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l manual -d 'Write the whole sidecar, rather than annotations'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l ingress -d 'Route requests by their host name, for ingress controllers'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l ignore-cluster -d 'Accepted for scripts: without --manual the cluster is never asked'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l enable-external-profiles -d 'Look up profiles of names outside the cluster too'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand inject" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand install" -s f -l values -d 'Values from a YAML file, or - for standard input; repeatable, later files win' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l set -d 'One value, such as proxy.logLevel=debug; repeatable, wins over files and other flags' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -s n -l namespace -d 'The namespace to install into; the same as --hawser-namespace' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l image -d 'The image of all roles and of the proxy' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-trust-domain -d 'The domain of all identities [default: the cluster\'s domain]' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l cluster-domain -d 'The domain of the cluster\'s DNS names [default: cluster.local]' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l controller-replicas -d 'How many replicas of each role' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l controller-log-level -d 'What the roles log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-issuance-lifetime -d 'How long the certificates of proxies are valid, such as 24h' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-clock-skew-allowance -d 'How far the clocks of nodes may differ, such as 20s' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -s o -l output -d 'How to print the objects' -r -f -a "json\t'One object a line'
yaml\t''"
complete -c hawser -n "__fish_hawser_using_subcommand install" -l wait -d 'How long --apply waits for the mesh to be healthy, in seconds; 0 not at all' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-trust-anchors-file -d 'The trust anchors, as PEM: one or several' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-trust-anchors-key-file -d 'The key of the trust anchor, so that hawser makes and renews issuers and rotates the anchor itself; with --apply' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-issuer-certificate-file -d 'The issuer\'s certificate and those between it and an anchor, as PEM; with --apply' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-issuer-key-file -d 'The issuer\'s key' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-key-passphrase-file -d 'The passphrase of keys that are encrypted, in the first line of this file; - asks for it, or reads standard input' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-image -d 'The proxy\'s image, instead of hawser\'s own' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l image-pull-policy -d 'When to pull images: Always, IfNotPresent or Never' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-log-level -d 'What proxies log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-cpu-request -d 'CPU that a proxy is guaranteed' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-cpu-limit -d 'CPU that a proxy may use at most' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-memory-request -d 'Memory that a proxy is guaranteed' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-memory-limit -d 'Memory that a proxy may use at most' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-uid -d 'The user that proxies run as' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l proxy-gid -d 'The group that proxies run as' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l inbound-port -d 'Where proxies accept connections to their pods' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l outbound-port -d 'Where proxies accept connections of their apps' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l admin-port -d 'The port of the proxies\' admin servers' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l control-port -d 'The port of the proxies\' tap servers' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l skip-inbound-ports -d 'Inbound ports that bypass the proxy, such as 25,3000-3010' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l skip-outbound-ports -d 'Outbound ports that bypass the proxy' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l opaque-ports -d 'Ports whose connections are carried without being looked at' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l default-inbound-policy -d 'Who may call pods that no policy names: all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, audit or deny' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l require-identity-on-inbound-ports -d 'Ports on which clients must prove who they are' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l native-sidecar -d 'Whether the proxy is a native sidecar, which init containers can use and jobs do not wait for' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l wait-before-exit-seconds -d 'How long a proxy without a native sidecar outlives its app\'s end' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l shutdown-grace-period -d 'How long proxies may finish what they carry, such as 30s' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l access-log -d 'Log HTTP requests, as apache or json' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand install" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand install" -l ha -d 'Three replicas of each role, spread over nodes, with disruption budgets and resource requests'
complete -c hawser -n "__fish_hawser_using_subcommand install" -l apply -d 'Install it, instead of printing it, and wait until the mesh is healthy'
complete -c hawser -n "__fish_hawser_using_subcommand install" -l ignore-cluster -d 'Accepted for scripts: printing never asks the cluster anyway'
complete -c hawser -n "__fish_hawser_using_subcommand install" -l identity-external-issuer -d 'The issuer is in Secret hawser-identity-issuer already, or will be, and whoever put it there renews it (cert-manager, say)'
complete -c hawser -n "__fish_hawser_using_subcommand install" -l enable-external-profiles -d 'Look up profiles of names outside the cluster too'
complete -c hawser -n "__fish_hawser_using_subcommand install" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand install" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand install" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "await" -d 'Waits until the proxy of this pod is ready; what a container\'s hook runs'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "destination" -d 'Discovery and policy: tells proxies where services are, and who may call whom'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "identity" -d 'The certificate authority: signs the certificates of proxies'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "init" -d 'Sets up the packet redirection of a pod, then exits'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "injector" -d 'The admission webhook: adds the proxy to pods'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "proxy" -d 'The data plane, beside each app'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "sample" -d 'Sample apps for demos and tests'
complete -c hawser -n "__fish_hawser_using_subcommand run; and not __fish_seen_subcommand_from await destination identity init injector proxy sample help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -s p -l port -d 'The admin port of the proxy' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -s t -l timeout -d 'How long to wait for it' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from await" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l admin-address -d 'Where the admin server listens: /live, /ready and /metrics' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l control-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l trust-domain -d 'The domain of all identities' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l cluster-domain -d 'The domain of the cluster\'s DNS names' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l log -d 'What to log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l log-format -d 'How log lines look' -r -f -a "json\t''
plain\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l trust-bundle-file -d 'Where to keep a copy of the trust bundle, for the proxy of this pod' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l destination-address -d 'Where endpoints and profiles are told' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l policy-address -d 'Where policies are told' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l default-inbound-policy -d 'Who may reach ports that nothing else is said about' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l cluster-networks -d 'The networks of pods and services; addresses elsewhere are outside the cluster' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l default-opaque-ports -d 'Ports whose bytes are carried without being looked at, where nothing else is said' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l probe-networks -d 'The networks of kubelets, whose HTTP probes are let through [default: any]' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l enable-h2-upgrade -d 'Whether HTTP/1 is carried in HTTP/2 between proxies' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from destination" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l admin-address -d 'Where the admin server listens: /live, /ready and /metrics' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l control-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l trust-domain -d 'The domain of all identities' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l cluster-domain -d 'The domain of the cluster\'s DNS names' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l log -d 'What to log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l log-format -d 'How log lines look' -r -f -a "json\t''
plain\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l trust-bundle-file -d 'Where to keep a copy of the trust bundle, for the proxy of this pod' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l address -d 'Where proxies ask for certificates' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l issuance-lifetime -d 'How long a certificate is valid' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l clock-skew-allowance -d 'How far clocks of nodes may differ' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l issuer-lifetime -d 'How long an issuer made here is valid' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l issuer-renew-before -d 'How long before its end an issuer made here is replaced' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l anchor-lifetime -d 'How long a trust anchor made here is valid' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l anchor-rotate-before -d 'How long before its end a trust anchor begins to be replaced' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l accept-api-server-tokens -d 'Whether pods may prove themselves by a token for the API server: for pods that have none for the mesh' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from identity" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s p -l incoming-proxy-port -d 'Where the proxy accepts connections to this pod' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s o -l outgoing-proxy-port -d 'Where the proxy accepts connections of this pod\'s apps' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s u -l proxy-uid -d 'The user whose connections are left alone, for it runs the proxy; 0 or less for none' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s g -l proxy-gid -d 'The group whose connections are left alone, likewise; 0 or less for none' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s r -l ports-to-redirect -d 'The only inbound ports to redirect, instead of all; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l inbound-ports-to-ignore -d 'Inbound ports that bypass the proxy, such as `25,3000-3010`; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l outbound-ports-to-ignore -d 'Outbound ports that bypass the proxy; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l subnets-to-ignore -d 'Networks whose connections to this pod bypass the proxy; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l ipv6 -d 'Whether to redirect IPv6 as well, where the pod has it' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l timeout-close-wait-secs -d 'How long conntrack remembers connections that wait to be closed; needs a privileged container' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l dry-run -l simulate -d 'Print the rules, and change nothing' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l log-level -d 'What to log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l log-format -d 'How log lines look' -r -f -a "json\t''
plain\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l firewall-bin-path -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l firewall-save-bin-path -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l iptables-mode -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s w -l use-wait-flag -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from init" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l admin-address -d 'Where the admin server listens: /live, /ready and /metrics' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l control-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l trust-domain -d 'The domain of all identities' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l cluster-domain -d 'The domain of the cluster\'s DNS names' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l log -d 'What to log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l log-format -d 'How log lines look' -r -f -a "json\t''
plain\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l trust-bundle-file -d 'Where to keep a copy of the trust bundle, for the proxy of this pod' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l address -d 'Where the API server asks for reviews' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from injector" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l admin-listen-addr -d 'Where the admin server listens' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l shutdown-endpoint-enabled -d 'Whether `POST /shutdown` ends the proxy, for Jobs' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-svc-addr -d 'Where destinations are resolved' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-svc-name -d 'The identity the destination service must prove; not needed at a loopback address' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-context -d 'What the destination service should know of this client, passed on as it is' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-profile-networks -d 'The addresses whose profiles are looked up' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-profile-suffixes -d 'The names of services whose profiles are looked up for what comes to the app, by how they end; `.` for all' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l destination-profile-initial-timeout -d 'How long the first requests for a service wait for its profile' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l policy-svc-addr -d 'Where policies are watched' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l policy-svc-name -d 'The identity the policy service must prove; not needed at a loopback address' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l policy-workload -d 'Which workload\'s policies are asked for, passed on as it is' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l policy-cluster-networks -d 'The networks of the cluster, for policies that name them' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l control-stream-initial-timeout -d 'How long a stream of the control plane may be without its first message' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l control-stream-idle-timeout -d 'How long a stream of the control plane may be silent' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l control-stream-lifetime -d 'How long a stream of the control plane lives' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-trust-anchors -d 'The bundle, as PEM' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l trust-bundle-file -d 'Where the bundle appears, when it is not given as PEM; waited for' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-local-name -d 'This proxy\'s identity' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-token-file -d 'Where the service account\'s token is; read for each certificate, for Kubernetes renews it' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-dir -d 'A folder of this proxy\'s own, where it keeps the last trust bundle it was told' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-svc-addr -d 'Where certificates are signed' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-svc-name -d 'The identity the identity service must prove; not needed at a loopback address' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-min-refresh -d 'The shortest time between two certificates' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l identity-max-refresh -d 'The longest time between two certificates' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l connections-end-with-certificates -d 'Whether connections of the mesh end when a certificate does that they were made with: those under way gracefully, opaque ones at once' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-listen-addr -d 'Where connections from the network are redirected to' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-ips -d 'The addresses of this pod; connections meant for others are refused. Unset: all are taken' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-ports -d 'The ports whose policies are watched from the start' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-ports-disable-protocol-detection -d 'The ports that are opaque until policy says otherwise' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-default-policy -d 'Who may connect until policy says otherwise' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-tell-client-ip -d 'Whether the app is told the address of each client, in the header hawser-client-ip; then nothing but HTTP reaches it' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-gateway-suffixes -d 'The names that peers may have themselves taken on to, as DNS suffixes: a multicluster gateway. Unset: none' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-detect-timeout -d 'How long a client may leave its first bytes unfinished' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-connect-timeout -d 'How long connecting to the app may take' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-accept-keepalive -d 'The TCP keepalive of accepted connections; 0 for none' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-accept-user-timeout -d 'How long sent data of accepted connections may stay unacknowledged; 0 for the kernel\'s own limit' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-discovery-idle-timeout -d 'How long the policy of an unused port is kept' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-http1-connection-pool-idle-timeout -d 'How long an idle HTTP/1 connection to the app is kept' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-max-in-flight -d 'How many requests may be under way' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-server-http2-keep-alive-interval -d 'How often HTTP/2 clients are pinged; 0 for never' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l inbound-server-http2-keep-alive-timeout -d 'How long HTTP/2 clients may take to answer a ping' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-listen-addrs -d 'Where the app\'s connections are redirected to' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-listen-addr -d 'The same, as older injectors name it' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-detect-timeout -d 'How long an app may leave its first bytes unfinished' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-connect-timeout -d 'How long connecting to an endpoint may take, with its TLS handshake' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-connect-keepalive -d 'The TCP keepalive of connections to endpoints; 0 for none' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-connect-user-timeout -d 'How long sent data to endpoints may stay unacknowledged; 0 for the kernel\'s own limit' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-discovery-idle-timeout -d 'How long a target that nobody uses stays known' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-http1-connection-pool-idle-timeout -d 'How long an idle HTTP/1 connection to an endpoint is kept' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-http-failfast-timeout -d 'How long a request waits for an endpoint' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-http-queue-capacity -d 'How many requests may wait for an endpoint of one service' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-tcp-failfast-timeout -d 'How long an opaque connection waits for an endpoint' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-tcp-queue-capacity -d 'How many opaque connections may wait for an endpoint of one service' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-max-in-flight -d 'How many requests may be under way' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-server-http2-keep-alive-interval -d 'How often the app\'s HTTP/2 connections are pinged; 0 for never' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-server-http2-keep-alive-timeout -d 'How long the app may take to answer a ping' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outbound-disable-informational-headers -d 'Whether responses go without `l5d-proxy-error`' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l ingress-mode -d 'Whether targets are taken from the header `l5d-dst-override`' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l cores -d 'How many threads carry connections' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l log -d 'What to log, as an env-filter' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l log-format -d 'How log lines look' -r -f -a "json\t''
plain\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l access-log -d 'Log requests from the network on standard output, as apache or json' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l shutdown-grace-period -d 'How long connections may take to end after SIGTERM' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l outlasts-app -d 'Whether to go on after SIGTERM until no process of another user has a TCP socket in this pod, at most as long again as connections may take to end: for a container that is told to end together with its app' -r -f -a "true\t''
false\t''"
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from proxy" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "http" -d 'An HTTP server that answers with the request it got, as JSON'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "grpc" -d 'A gRPC server that repeats what it is told'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "smtp" -d 'A server that speaks first: it greets, then answers line by line'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "load" -d 'Calls a server at a steady rate, and counts'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "once" -d 'Calls a server once, prints the answer, and fails if there is none'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "pipe" -d 'Joins standard input and output to a TCP connection'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from sample" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "await" -d 'Waits until the proxy of this pod is ready; what a container\'s hook runs'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "destination" -d 'Discovery and policy: tells proxies where services are, and who may call whom'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "identity" -d 'The certificate authority: signs the certificates of proxies'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "init" -d 'Sets up the packet redirection of a pod, then exits'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "injector" -d 'The admission webhook: adds the proxy to pods'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "proxy" -d 'The data plane, beside each app'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "sample" -d 'Sample apps for demos and tests'
complete -c hawser -n "__fish_hawser_using_subcommand run; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "abort" -d 'End a rotation of the trust anchor, and go back to the old one'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "recover" -d 'Bring back a mesh whose trust anchor has ended: under a new one, without restarting a pod'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "create" -d 'Make a trust anchor and an issuer as files, without a cluster'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "rotate" -d 'Replace the trust anchor, or the issuer, now'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "status" -d 'Show the trust anchors, the issuer, where a rotation stands and who holds it, and what would end when if nothing renewed'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and not __fish_seen_subcommand_from abort recover create rotate status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from abort" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from recover" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -s o -l output -d 'The folder for the files, made if it is missing' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l identity-trust-domain -d 'The domain of all identities, as the mesh will have it' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l key -d 'The kind of both keys: p256 or p384' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l anchor-lifetime -d 'How long the anchor is valid' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l issuer-lifetime -d 'How long the issuer is valid: nobody renews it but whoever holds the anchor\'s key' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l key-passphrase-file -d 'Encrypt both keys (PKCS #8, as OpenSSL does) with the passphrase in the first line of this file; - asks for it, or reads standard input' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l force -d 'Write over files that are there'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from create" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l anchor -d 'The trust anchor: no pod is restarted, and it takes as long as a certificate lives'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l issuer -d 'The issuer, under the same anchor'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from rotate" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -s o -l output -d 'How to print it' -r -f -a "json\t''
text\t''"
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -s w -l watch -d 'Go on until no rotation is under way'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from status" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "abort" -d 'End a rotation of the trust anchor, and go back to the old one'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "recover" -d 'Bring back a mesh whose trust anchor has ended: under a new one, without restarting a pod'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "create" -d 'Make a trust anchor and an issuer as files, without a cluster'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "rotate" -d 'Replace the trust anchor, or the issuer, now'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "status" -d 'Show the trust anchors, the issuer, where a rotation stands and who holds it, and what would end when if nothing renewed'
complete -c hawser -n "__fish_hawser_using_subcommand trust; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -s o -l output -d 'How to print the manifests' -r -f -a "json\t'One object a line'
yaml\t''"
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand uninject" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -s o -l output -d 'How to print the objects' -r -f -a "json\t'One object a line'
yaml\t''"
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -s f -l force -d 'Even while pods are meshed'
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l delete -d 'Delete it, instead of printing it'
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand uninstall" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand version" -s o -l output -d 'How to print the versions' -r -f -a "json\t''
text\t''"
complete -c hawser -n "__fish_hawser_using_subcommand version" -s L -l hawser-namespace -l linkerd-namespace -d 'The namespace of the control plane' -r
complete -c hawser -n "__fish_hawser_using_subcommand version" -l kubeconfig -d 'The kubeconfig file, instead of the usual ones' -r -F
complete -c hawser -n "__fish_hawser_using_subcommand version" -l context -d 'The kubeconfig context to use' -r
complete -c hawser -n "__fish_hawser_using_subcommand version" -l as -d 'Act as this user (Kubernetes impersonation)' -r
complete -c hawser -n "__fish_hawser_using_subcommand version" -l as-group -d 'Act as a member of this group; repeatable' -r
complete -c hawser -n "__fish_hawser_using_subcommand version" -l client -d 'Show the version of the client only, and ask no cluster'
complete -c hawser -n "__fish_hawser_using_subcommand version" -l short -d 'Show bare version numbers: the client\'s, then the control plane\'s'
complete -c hawser -n "__fish_hawser_using_subcommand version" -l proxy -d 'Accepted, for the versions of proxies are always shown'
complete -c hawser -n "__fish_hawser_using_subcommand version" -l verbose -d 'Log what is being done, to standard error'
complete -c hawser -n "__fish_hawser_using_subcommand version" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hawser -n "__fish_hawser_using_subcommand version" -s V -l version -d 'Print version'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "check" -d 'Check that the mesh is healthy'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "completion" -d 'Print the completions of a shell'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "docs" -d 'Print the reference of all commands as Markdown, or write manual pages'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "edges" -d 'Show who talks to whom, and whether it is secured'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "identity" -d 'Show and verify the certificates of pods'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "image" -d 'Write a container image of this very binary'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "inject" -d 'Add the mesh to manifests, to be piped to `kubectl apply -f -`'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "install" -d 'Print the installation, to be piped to `kubectl apply -f -`'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "run" -d 'Run a role of the mesh; what pods start'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "trust" -d 'Whom the mesh believes, and how that is replaced'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "uninject" -d 'Take the mesh out of manifests'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "uninstall" -d 'Print what to delete, to be piped to `kubectl delete -f -`'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "version" -d 'Show the versions of the client, the control plane and the proxies'
complete -c hawser -n "__fish_hawser_using_subcommand help; and not __fish_seen_subcommand_from check completion docs edges identity image inject install run trust uninject uninstall version help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "await" -d 'Waits until the proxy of this pod is ready; what a container\'s hook runs'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "destination" -d 'Discovery and policy: tells proxies where services are, and who may call whom'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "identity" -d 'The certificate authority: signs the certificates of proxies'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "init" -d 'Sets up the packet redirection of a pod, then exits'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "injector" -d 'The admission webhook: adds the proxy to pods'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "proxy" -d 'The data plane, beside each app'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from run" -f -a "sample" -d 'Sample apps for demos and tests'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "abort" -d 'End a rotation of the trust anchor, and go back to the old one'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "recover" -d 'Bring back a mesh whose trust anchor has ended: under a new one, without restarting a pod'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "create" -d 'Make a trust anchor and an issuer as files, without a cluster'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "rotate" -d 'Replace the trust anchor, or the issuer, now'
complete -c hawser -n "__fish_hawser_using_subcommand help; and __fish_seen_subcommand_from trust" -f -a "status" -d 'Show the trust anchors, the issuer, where a rotation stands and who holds it, and what would end when if nothing renewed'
