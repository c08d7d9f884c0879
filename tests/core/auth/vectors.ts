/** What the real pg_md5 and pg_enc print and write (spec wire/crypto.md). */

const p = (count: number): string => "p".repeat(count);

/** `pg_md5 PASSWORD`. */
export const md5Vectors: readonly (readonly [password: string, hex: string])[] = [
  ["secret", "5ebe2294ecd0e0f08eab7690d2a6ee69"],
  ["", "d41d8cd98f00b204e9800998ecf8427e"],
  ["pässwörd", "12841e4ba5e37d2fbfc78458c6714ade"],
  [p(128), "7fd834dfe30ca2bc4916d3d687d3921a"],
  ["postgres", "e8a48653851e28c69d0506508fb27fc5"],
  ["p1", "ec6ef230f1828039ee794566b9c58adc"],
  ["pass:with:colon", "0e50365d3c092191d68e0852e3c6cf6a"],
  ["nouser", "9d191e65f34700d9bda864979f2b4e4f"],
  [" sp ", "a2b39967455293a8da778adcd2d63f75"],
];

/** `pg_md5 -m -u USER PASSWORD`. */
export const md5EntryVectors: readonly (readonly [user: string, password: string, line: string])[] =
  [
    ["bob", "secret", "bob:md521f3163f8f86fa10bdefbfbd502a8f06"],
    ["u1", "p1", "u1:md5f3bd28f750c1652dc0198b285f82ef15"],
    ["u2", "pass:with:colon", "u2:md51f54cc15feb41898ffd0130927f8adc5"],
    ["u4", " sp ", "u4:md532b698c4dc762aa978004fcab6d81f86"],
    ["root", "nouser", "root:md561091533de3b3950d284f4ff4bd24a43"],
  ];

/** EVP_BytesToKey with SHA-1. */
export const keyVectors: readonly (readonly [keyText: string, key: string, iv: string])[] = [
  [
    "",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709be1bdec0aa74b4dcb079943e",
    "70528096cca985f880324ed2458e5d51",
  ],
  [
    "k",
    "13fbd79c3d390e5d6585a21e11ff5ec1970cff0c427a619ab5dcc6e6e2448e7c",
    "b7301acfb1c7a18a6fcf51f3ab71075c",
  ],
  [
    "mykey",
    "816cc20437d859538736e1ef46558b7bda486c066d42ff28d8124bf893ff1e60",
    "36397b6880a6982fef028c3beec074e3",
  ],
  [
    "filekey",
    "049874d28ad9eda88aff5c2390060deaa08570a30bd3e842eeedc34f29ed7779",
    "39f69bf452d8bedc1ded0a9f2b3186aa",
  ],
  [
    "clé-ключ-鍵",
    "b9159e659acc13d3854dd3846f5b89014cc5575db5896a4bdca78b1867fdb4ec",
    "160def64057f54d63b6ff0fe9d0a0c24",
  ],
];

/** `pg_enc -K KEY PASSWORD`: the stored form. */
export const aesVectors: readonly (readonly [key: string, password: string, stored: string])[] = [
  ["k", "a", "AESqeHYc5LCOIErLrsAh2VWmA=="],
  ["key1", "secret", "AES2IGFZXCW/lhNEkhTC3GDSA=="],
  ["mykey", "secret", "AESV7IMV7YNworqqZU1Z46Wgw=="],
  ["mykey", "0123456789abcde", "AESqVWDUITX1DP3yJQWZrVr7A=="],
  ["mykey", "0123456789abcdef", "AESvZWBTmaUMURKL+RHwIfFnEP3cyaoOJpFZZKHKFcC6Qk="],
  ["mykey", "0123456789abcdefg", "AESvZWBTmaUMURKL+RHwIfFnBamYLkAumHRXin+1sI3EmI="],
  ["mykey", "", "AESUhJmCnJilcpWWUd2E575IA=="],
  ["a".repeat(64), "password", "AES8+q3s+glDB/ENTReLlwrtg=="],
  ["K".repeat(200), "longkey", "AESyTdBB4durripLBzc31juew=="],
  ["K".repeat(255), "key255", "AESpp42A211EpR0S3w/8cGaLA=="],
  ["K".repeat(256), "key256", "AES1dFDno/y0Vb25OmfGe4laA=="],
  ["K".repeat(300), "key300", "AESR8s8Ih2eQj2JHwIb1w7EWA=="],
  [
    "mykey",
    p(64),
    "AES/F8H3DKUNNIpiC2KGLq6qGJzrn0URYSGEKCvLHB90bA9L/76zjFNbSwojj3O3CoywbRIA1DnzcjSKP/uA4YH5zxyK0ggegxQAvICRLqmlUQ=",
  ],
  [
    "mykey",
    p(100),
    "AES/F8H3DKUNNIpiC2KGLq6qGJzrn0URYSGEKCvLHB90bA9L/76zjFNbSwojj3O3CoywbRIA1DnzcjSKP/uA4YH50361FT7aAdkItH//E+pdxp6wRxfIJs9F5PMl8NpDjGVX3hnDnSzUOolfcuWGe74Wg==",
  ],
  [
    "mykey",
    p(127),
    "AES/F8H3DKUNNIpiC2KGLq6qGJzrn0URYSGEKCvLHB90bA9L/76zjFNbSwojj3O3CoywbRIA1DnzcjSKP/uA4YH50361FT7aAdkItH//E+pdxp6wRxfIJs9F5PMl8NpDjGVXdsPy8Yq2T22fj007bpFeaF5XzxPEo+I2GRUsbT0O+4=",
  ],
  [
    "mykey",
    p(128),
    "AES/F8H3DKUNNIpiC2KGLq6qGJzrn0URYSGEKCvLHB90bA9L/76zjFNbSwojj3O3CoywbRIA1DnzcjSKP/uA4YH50361FT7aAdkItH//E+pdxp6wRxfIJs9F5PMl8NpDjGVXdsPy8Yq2T22fj007bpFeU+0ViUHIw5TemeYH19j57OBwFcswB5qSUCHTUfxvOpB",
  ],
  ["clé-ключ-鍵", "pässwörd", "AESAXCxeHOAMgL6+4Ojr9wEQA=="],
  ["mykey", "パスワード", "AES1+5ze1NJAyLiHPLWv3z3sQ=="],
  ["key with spaces", "pass word:with:colons", "AESMJ0+tFDgbpuYjc5U2bc1vv2QDTvXi603FHNy1Yc3hhA="],
  ["mykey", "back\\slash", "AESmkocCMWN682W5HBxzgxAzA=="],
  ["mykey", "\"quotes'$`", "AEStYRAPf/2quUPsw+qMKA/6Q=="],
  ["mykey", "p1", "AESahVwZVxvMwvaAywFZYrGbQ=="],
  ["mykey", "pass:with:colon", "AESMFvkSgU+YnAaYfGP3L8mMQ=="],
  ["mykey", " sp ", "AES36RX1e0NUXCW7K8gLnqxIw=="],
  ["mykey", "nouser", "AESstK918V7GLQccz2pUdObgQ=="],
];

/** `pg_enc -k FILE secret`, by what the file holds. */
export const keyFileVectors: readonly (readonly [
  title: string,
  content: string,
  stored: string,
])[] = [
  ["a line", "filekey\n", "AESQ0/w7p1fhQTNejYCU1Hs7A=="],
  ["a line without newline", "filekey", "AESQ0/w7p1fhQTNejYCU1Hs7A=="],
  ["two lines", "first\nsecond\n", "AES55WOwXHMjdPYzZXL5bh5Fw=="],
  ["a carriage return", "filekey\r\n", "AESh6Jv2m546y9Abx9E04bytA=="],
  ["an empty first line", "\nsecond\n", "AESusUl+sJB8NTGklVZKnG09g=="],
  ["400 bytes", `${"L".repeat(400)}\n`, "AESGA2nnCSITiVD5waaB1fbAQ=="],
  ["a trailing blank", "filekey \n", "AESM2PXd6vieAYGfqzjMhGsOw=="],
  ["Japanese", "鍵ファイル\n", "AESezVp3VtSnxdQweg9RuTkCg=="],
  ["what looks like a comment", "#comment\nkey\n", "AESIxwTbjbMOjm7M3ygDruPYA=="],
];
