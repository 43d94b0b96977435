import requests

api_key = "aimichat_your_api_key_here"
url = "https://aimichat.app/v1/chat/completions"
headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
data = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 100}
response = requests.post(url, headers=headers, json=data)
print(response.json())
