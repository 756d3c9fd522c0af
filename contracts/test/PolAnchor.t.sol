// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

import {PolAnchor} from "../PolAnchor.sol";

/// @dev The cheat codes that are used here, as Foundry documents them.
interface Vm {
    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function assume(bool condition) external pure;
    function deal(address account, uint256 balance) external;
    function getRecordedLogs() external returns (Log[] memory);
    function prank(address sender) external;
    function record() external;
    function accesses(address target) external returns (bytes32[] memory reads, bytes32[] memory writes);
    function recordLogs() external;
    function lastCallGas() external view returns (Gas memory);

    struct Gas {
        uint64 gasLimit;
        uint64 gasTotalUsed;
        uint64 gasMemoryUsed;
        int64 gasRefunded;
        uint64 gasRemaining;
    }
}

contract PolAnchorTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bytes32 private constant TOPIC = keccak256("Anchored(address,bytes32,bytes32,uint64)");

    PolAnchor private target;

    function setUp() public {
        target = new PolAnchor();
    }

    function check(address prover, bytes32 log, bytes32 root, uint64 size) private {
        vm.recordLogs();
        vm.prank(prover);
        target.anchor(log, root, size);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assert(logs.length == 1);
        assert(logs[0].emitter == address(target));
        assert(logs[0].topics.length == 3);
        assert(logs[0].topics[0] == TOPIC);
        assert(logs[0].topics[1] == bytes32(uint256(uint160(prover))));
        assert(logs[0].topics[2] == log);
        assert(keccak256(logs[0].data) == keccak256(abi.encode(root, size)));
    }

    function test_TheEventSaysWhatWasPublishedAndByWhom() public {
        check(address(0xA11CE), keccak256("log"), keccak256("root"), 42);
    }

    function test_TheSameHeadMayBePublishedAgainAndByAnyone() public {
        check(address(0xA11CE), keccak256("log"), keccak256("root"), 42);
        check(address(0xA11CE), keccak256("log"), keccak256("root"), 42);
        check(address(0xB0B), keccak256("log"), keccak256("root"), 42);
    }

    function testFuzz_AnyValueIsPublishedAsItIs(address prover, bytes32 log, bytes32 root, uint64 size) public {
        check(prover, log, root, size);
    }

    function test_NothingIsStored() public {
        vm.record();
        target.anchor(keccak256("log"), keccak256("root"), 42);
        (bytes32[] memory reads, bytes32[] memory writes) = vm.accesses(address(target));
        assert(reads.length == 0 && writes.length == 0);
    }

    function test_MoneyIsRefused() public {
        vm.deal(address(this), 1 ether);
        (bool paid,) = address(target).call{value: 1}("");
        assert(!paid);
        bytes memory call = abi.encodeCall(PolAnchor.anchor, (keccak256("log"), keccak256("root"), 42));
        (paid,) = address(target).call{value: 1}(call);
        assert(!paid && address(target).balance == 0);
    }

    function testFuzz_NothingElseCanBeCalled(bytes4 selector, bytes calldata rest) public {
        vm.assume(selector != PolAnchor.anchor.selector);
        (bool done,) = address(target).call(abi.encodePacked(selector, rest));
        assert(!done);
    }

    function testFuzz_ASizeBeyond64BitsIsRefused(bytes32 log, bytes32 root, uint256 size) public {
        vm.assume(size > type(uint64).max);
        (bool done,) = address(target).call(abi.encodeWithSelector(PolAnchor.anchor.selector, log, root, size));
        assert(!done);
    }

    function testFuzz_ShortCalldataIsRefused(bytes32 log, bytes32 root) public {
        (bool done,) = address(target).call(abi.encodeWithSelector(PolAnchor.anchor.selector, log, root));
        assert(!done);
    }

    /// A transaction adds 21,000 and its calldata (at most 16 a byte, 100 bytes): 25,000 leaves 2,400 for the call.
    function test_TheCallIsCheap() public {
        target.anchor(bytes32(type(uint256).max), bytes32(type(uint256).max), type(uint64).max);
        assert(vm.lastCallGas().gasTotalUsed <= 2_400);
    }
}
